"""Camera files, packed planes, exposure and sensor noise."""
