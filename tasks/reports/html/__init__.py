"""The page of a run: one HTML file that holds everything it shows, and asks nobody for anything.

`page.render` turns a `report.RunReport` into the text of the file. Pure functions, as everywhere in
`reports/`: the caller reads the artifacts. What is not given is not shown, not even its heading.

| file        | holds                                                                        |
| ----------- | ---------------------------------------------------------------------------- |
| report.py   | the frozen dataclasses: exactly what is shown                                 |
| page.py     | `render`: head, security policy, order of the sections                        |
| markup.py   | `tag`, `table`: every plain string is escaped, and cannot not be              |
| decision.py | the verdict, and what this run is                                             |
| scores.py   | systems by metrics, differences, slices, what the metrics do not see          |
| drawings.py | dots with whiskers and compared histograms; makes pictures share one page     |
| answers.py  | `chosen`, and the answers side by side                                        |
| account.py  | the data, the lineage, how to repeat it                                       |
| style.css   | screen, phone, paper; light and dark                                          |
| order.js    | sorts and filters the answers; without it everything is there, in page order  |
"""
