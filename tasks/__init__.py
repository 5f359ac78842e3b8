"""How each step is done: one row a step, in the order of the flow.

| step        | in → out                                 | file          | re-runs when                            |
| ----------- | ---------------------------------------- | ------------- | --------------------------------------- |
| fetch       | SourceConfig → RawFile                   | data.py       | the bytes at the source change          |
| convert     | RawFile, DataConfig → Dataset            | data.py       | raw digest, config, source of formats     |
| stage       | Dataset, StoreConfig → Dataset           | data.py       | dataset digest, store                   |
| fetch_model | BaseConfig → Model                       | training.py   | the bytes of the base model change      |
| train       | Dataset, Model, TrainSpec → Model        | training.py   | digests, spec, source of the trainer    |
| predict     | Model, Dataset, DecodeSpec → Predictions | training.py   | digests, spec, source of the trainer    |
| imitate     | Dataset, DecodeSpec → Predictions        | evaluation.py | dataset digest, spec, source of baselines |
| score       | Predictions, MetricsConfig → Scores      | evaluation.py | digest, config, source of the metrics   |
| judge       | Scores…, JudgeConfig → Verdict           | evaluation.py | its inputs                              |
| register    | Model, Scores, Verdict → Registration    | serving.py    | never cached, the same again by name    |
| deploy      | Model, Predictions → Endpoint            | serving.py    | never cached, the same again by name    |
| publish     | all of them → pages of the Prefect UI    | publishing.py | never cached                            |

Every step has one shape, *artifact = step(artifacts, a section of the configuration)*. Artifacts
(`artifacts.py`) are references with digests, kept in the store (`store.py`); `steps.py` is what every
step wears: cached by content (`caching.py`), retried by cause (`errors.py`), timed, and plannable.
To add a dataset format, a model family or a place to run, add one file to `formats/`,
`trainer/families/` or `backends/`; nothing else lists them.
"""
