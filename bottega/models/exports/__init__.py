"""Models in other tools' formats: GGUF and ONNX written, GGUF read, and each proven on tokens.

Left out: Hugging Face folders and PEFT adapters (models/plain.py, models/methods), which are our own formats.
"""
