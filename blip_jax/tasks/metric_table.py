"""The metrics of an evaluation as a table."""

from typing import Any

from blip_jax.metrics import uncertainty
from blip_jax.models import Table


class Metrics(dict[str, float]):
    """Metrics by name; notebooks show them as a table."""

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of a table: name, value, number of examples, standard error."""
        rows = []
        for name, metric in self.items():
            found = uncertainty.to_json(metric)
            error = {"± standard error": found.pop("standard_error")}
            rows.append({"metric": name, **found, **error})
        return rows

    def _repr_html_(self) -> str:
        rows = self.rows()
        names = dict.fromkeys(name for row in rows for name in row)
        return Table({name: [row.get(name) for row in rows] for name in names})._repr_html_()
