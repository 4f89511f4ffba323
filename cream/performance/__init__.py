"""Speed and memory, measured.

Belongs here: commands that time the product and write rows, and their tables and figures. Does not:
the product itself. Read first: `harness`, how anything is measured, and `costs`, which reads the
rows; `python -m cream.performance` lists the commands.
"""
