"""The web demo: a page on which models are tried in a browser (Gradio, extra `demo`).

uploads.py reads what a browser sends, work.py asks the models, views.py writes the HTML of results,
page.py has the tabs, and server.py runs the page until a signal comes.
"""
