"""What a run says to a person: pages of the Prefect UI, tables of the terminal, the progress bar.

Pure functions from artifacts and plain rows to strings: nothing here reads the store, knows Prefect or
computes a score. A page is markdown that both UIs of Prefect render alike, so it holds no raw HTML;
pictures are SVG within the markdown. `wording.py` is the one place that decides how a number reads.

| file          | shows                                                              |
| ------------- | ------------------------------------------------------------------ |
| data.py       | `look`, `data_card`: the rows that were trained on                 |
| training.py   | `training_page`: how the loss fell, and what was asked for         |
| evaluation.py | `score_table`, `side_by_side`: how good the answers are            |
| terminal.py   | the same for the terminal: steps, scores, answers, what to do next |
| progress.py   | `Bar`: how far a long step is                                      |
| markdown.py   | `escape`, `table`: foreign text that shows as it is                |
| pictures.py   | `curve`, `histogram`, drawn on `axes.py`                           |
"""
