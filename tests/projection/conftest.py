"""The market of small structures, and the slow, obvious route to their dense matrices."""

from tests.layers.conftest import case as case, dense_by_columns as dense_by_columns, market as market
