"""An HTTP server of models: requests of different options share batches (`blip-jax serve`).

config.py has its settings, requests.py what clients send and get. endpoints.py makes rows of a
request and its response of their results; programs.py computes rows in batches of few sizes, which
batcher.py forms. service.py has the models, warm-up and metrics; guard.py the limits; app.py the
routes; server.py the process.
"""
