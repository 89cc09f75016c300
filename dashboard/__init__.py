"""The dashboard behind `app.py`: one module per tab, and what the tabs share.

    app.py ─▶ serving.py ─▶ page.py ─▶ tabs.py ─▶ ground.py, data.py, layers.py, runs.py
              gate.py       loading.py, answering.py, visitor.py, limits.py, markup.py

A tab lays out widgets and binds events; what the events do stands in a module of its own that knows no widgets
(`grounding.py` for `ground.py`).
"""
