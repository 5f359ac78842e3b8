"""How answers are measured: pure functions of lists of strings, and of the numbers they give.

| file            | holds                                                                          |
| --------------- | ------------------------------------------------------------------------------ |
| protocol.py     | the named, versioned protocols: scores of each row, and what a score is called |
| rouge.py        | ROUGE-1/2/L over words                                                         |
| bleu.py         | BLEU-4 over characters                                                         |
| segment.py      | the words of Chinese text, the same in every process                           |
| attributes.py   | prompts of the form `key#value*key#value`                                      |
| faithfulness.py | whether answers say what was asked, and all beside the protocol: `extras`      |
| fluency.py      | variety, repetition, length and width of answers                               |
| statistics.py   | bootstrap intervals of a mean and of a paired difference                       |

Nothing here reads a file of the run, knows Prefect or loads a model. `python -m bench.metrics`
measures the speed beside the published code.
"""
