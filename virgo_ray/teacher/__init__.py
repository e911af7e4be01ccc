"""Teachers: another model whose thoughts are learnt in place of one's own (the paper's D_QVQ)."""
