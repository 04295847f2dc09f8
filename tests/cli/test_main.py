"""Exit of the command line."""

import pytest
from torch import distributed

from nip.cli import main


@pytest.mark.parametrize(("command", "code"), [(["doctor", "--json"], 0), (["score", "no-such-pattern"], 2)])
def test_the_process_group_is_destroyed_only_after_success(tmp_path, command, code):
    distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(SystemExit) as end:
            main(command)
        assert (end.value.code or 0) == code
        # after a failure the others may be in the middle of a step: leaving in good order would wait for them
        assert distributed.is_initialized() == (code != 0)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
