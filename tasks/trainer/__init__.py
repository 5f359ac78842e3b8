"""The part that runs where the model is: trains, answers, serves.

The folder travels alone into a process or a container, so it imports nothing of this repository but
itself, always relatively: `python -m tasks.trainer` from the checkout and `python -m trainer` beside a
copy of the folder are the same program. An order comes in as one file (`job.py`); results go into the
directories it names; lines on standard output (`events.py`) and the exit code say how it went.
"""
