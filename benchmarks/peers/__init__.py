"""Other ways to turn an image model into a video model, one small file each, for measuring their memory and arithmetic.

They are written here from the papers' descriptions ("-style"), not copied, and made to need as little as their method
allows: frozen weights and what runs between them in 16 bits, fused attention, nothing kept that autograd does not ask
for. Scores are not measured: random weights serve.
"""
