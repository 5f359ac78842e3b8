"""How answers are measured: pure functions of lists of strings, and of the numbers they give.

| file            | holds                                                                          |
| --------------- | ------------------------------------------------------------------------------ |
| protocol.py     | the named, versioned protocols: `Measure` says all that a score means          |
| chatglm.py      | the protocols of the ChatGLM family: chatglm2, chatglm3                        |
| english.py      | the protocols for English and mixed text: english, mixed                       |
| rouge.py        | ROUGE-1/2/L over words, as rouge_chinese has them                              |
| bleu.py         | BLEU-4 over characters or words, as nltk has it                                |
| segment.py      | the words of Chinese text, the same in every process                           |
| jieba_words.py  | two steps of jieba, faster and with equal words                                |
| optional.py     | packages that only some choices need                                           |
| attributes.py   | prompts of the form `key#value*key#value`                                      |
| scripts.py      | Chinese, Latin or mixed text                                                   |
| faithfulness.py | whether answers say what was asked, and all beside the protocol: `extras`      |
| fluency.py      | variety, repetition, length and width of answers                               |
| slices.py       | rows by attribute, length and script                                           |
| statistics.py   | intervals, paired tests, corrections, and how many rows are needed             |

Nothing here reads a file of the run, knows Prefect or loads a model. `python -m bench.metrics`
measures the speed beside the published code.
"""
