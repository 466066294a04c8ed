"""Where the desired state comes from. A source reads bytes and says when to look again; it judges nothing."""
