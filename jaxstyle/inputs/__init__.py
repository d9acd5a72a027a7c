"""Images and weights, from files to arrays and back. Needs no JAX.

Outside the network an image is RGB, 0 to 255, (h, w, 3): uint8 as decoded or saved, float32 and not clamped
while it is optimised. Inside the network it is BGR minus the mean pixel of VGG19's training set
(`preprocess`). Only this wing knows pixel ranges, channel means and channel order.
"""
