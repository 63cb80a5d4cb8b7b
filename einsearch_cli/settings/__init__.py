"""Settings from files and options: strict types, and errors in our own words."""

from einsearch_cli.errors import RuleError as RuleError
from einsearch_cli.settings.differences import differences as differences
from einsearch_cli.settings.reading import (
    Given as Given,
    Origin as Origin,
    SettingError as SettingError,
    in_code as in_code,
    in_document as in_document,
    read_settings as read_settings,
)
from einsearch_cli.settings.types import (
    Duration as Duration,
    FolderName as FolderName,
    PathSetting as PathSetting,
    Settings as Settings,
    Whole as Whole,
    duration_s as duration_s,
    folder_name as folder_name,
)
