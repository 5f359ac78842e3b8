"""What happens, in order: one screen a flow, `python -m flows.<name>` to run it here.

No classes, no tasks and no heavy imports: how each step is done is in `tasks/`.
"""
