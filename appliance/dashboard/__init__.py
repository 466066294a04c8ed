"""The page at `/`: what an operator needs to see, made on the server and complete without JavaScript.

    status document ─┐                                    ┌─▶ page (GET /): all parts in their order
    trend (15 min) ──┼─▶ view (pure) ──▶ parts (markup) ──┤
    pending edit ────┘                                    └─▶ live (/admin/events?view=page): what differs

    trend.py     a sample a second, kept for a quarter of an hour, however long this runs
    pace.py      how fast a download or a load goes, and when it will be done
    charts.py    numbers to the shapes of an SVG, and to a sentence for who cannot see it
    memory.py    the machine's memory as one bar: ours, others', budget and marks
    attention.py what a person should look at, and since when; nothing when all is well
    diff.py      the edit that waits, against last-known-good
    view.py      the whole page as plain data
    render.py    parts and page from `templates/`; nothing from outside
    live.py      one rendering a second, and one frame of bytes for all who look, however many

A page that is open follows one stream and asks for nothing else. Each second brings one frame: `at`, and the
parts that differ. The first frame has all of them, and so has the next one of a reader that missed some. So
nothing queues up here for a slow reader, and 200 pages cost one rendering and 200 writes. Relative times
("3 min ago") are no difference; the page counts them itself.

    following ──▶ lost: no frame for 4 s. Says so and since when, keeps what it has
        ▲           │
        └───────────┘  the stream is back: all parts at once; a page of another version loads itself anew

It only reads. All text is escaped by the template; names and messages may come from anybody's file.
"""
