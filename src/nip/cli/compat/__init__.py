"""The original repository's command lines, translated to those of `nip`."""
