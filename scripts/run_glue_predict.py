"""The original's command: it is ``nip glue --do_predict`` with a saved model, whose run says what is not given."""

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
