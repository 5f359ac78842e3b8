"""The embedded default: data of our own writing and a tiny base model, so that a run needs no network.

| file           | is                                      | is made again by                        |
| -------------- | --------------------------------------- | --------------------------------------- |
| `data/*.json`  | 2,400 and 240 rows in AdvertiseGen form | `python -m deployments.sample.garments` |
| `base/`        | a small GLM with its tokenizer          | `python -m deployments.sample.pretrain` |
| `lexicon.toml` | the words of the data                   | hand                                    |
"""
