"""What bench/serve.py is made of: servers, clients, hostile requests."""
