"""The original's script, as ``nip glue --do_predict`` with a saved model; flags not given are those of its run."""

import sys

from nip.cli import main

if __name__ == "__main__":
    if "--help" not in sys.argv:
        from nip.finetuning.evaluate_checkpoints import prediction_argv

        try:
            arguments = prediction_argv(sys.argv[1:])
        except (ValueError, OSError) as error:
            print(f"run_glue_predict.py: {error}", file=sys.stderr)
            sys.exit(2)
    else:
        arguments = ["--help"]
    main(["glue", *arguments])
