"""Data recipe of the shipped models; not part of the installed packages."""
