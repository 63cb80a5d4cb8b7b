"""What users set in files and with options: strict types, and refusals in our own words."""

from einsearch_cli.errors import RuleError
from einsearch_cli.settings.differences import differences
from einsearch_cli.settings.model import FolderName, PathSetting, Settings, Whole, folder_name
from einsearch_cli.settings.reading import Given, Origin, SettingError, in_code, in_document, read_settings

__all__ = [
    "FolderName",
    "Given",
    "Origin",
    "PathSetting",
    "RuleError",
    "SettingError",
    "Settings",
    "Whole",
    "differences",
    "folder_name",
    "in_code",
    "in_document",
    "read_settings",
]
