"""CapFilt: a captioner writes texts, a filter scores them; the best are kept (BLIP, 3.3).

`run` captions and scores a dataset (storage.py), `selection` selects texts, `assemble` writes the
selection as a mixture that training reads, with statistics and a card, `export` writes it as files.
"""
