"""What a deployment needs besides its lines in `prefect.yaml`; nothing in `flows/` or `tasks/` imports it."""
