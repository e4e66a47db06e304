"""CapFilt: a captioner writes, a filter judges, a cleaner dataset comes out (paper, 3.3).

`run` captions and scores a dataset, `assemble` makes of the scores what training reads.
"""
