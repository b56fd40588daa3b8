"""The page of a run: served live by `crossbreed dashboard`, and frozen with its data as `report.html`."""
