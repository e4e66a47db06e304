"""CapFilt: a captioner writes, a filter judges, a cleaner dataset comes out (paper, 3.3).

`run` captions and scores a dataset (scores.py), `rules` chooses among the texts, `assemble` makes
of the choice what training reads, `dataset` describes it, and `export` writes it out.
"""
