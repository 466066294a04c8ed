"""The page at `/`: what an operator needs to see, made on the server and complete without JavaScript.

    status document ─┐
    trend (15 min) ──┼─▶ view (pure: words, shapes, order) ──▶ template ──▶ bytes, made once a second at most
    pending diff ────┘

    trend.py     a sample a second, kept for a quarter of an hour, however long this runs
    charts.py    numbers to the shapes of an SVG, and to a sentence for who cannot see it
    attention.py what a person should look at, and since when; nothing when all is well
    view.py      the whole page as plain data
    render.py    template, style and script; nothing from outside

It only reads. All text is escaped by the template; names and messages may come from anybody's file.
"""
