"""`python -m colora_theory.cli`."""

from colora_theory.cli import main

main(prog_name="colora-theory")
