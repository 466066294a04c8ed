"""What the tokens of an answer must follow: a grammar, a forced tool call, a budget of thinking.

    plan      what a request asks for, checked and compiled before it starts          (intake thread)
    bounds    how large and how nested a grammar may be
    grammars  JSON Schema, regex and Lark, as llguidance takes them
    calls     grammars of tool calls, in the format that the model writes them in
    compiler  llguidance itself: imported, and its copy of the tokenizer made, at the first grammar
    guide     where one row is: thinking, at the end of it, or in its answer            (decode thread)
    masks     what the rows of a batch may pick next, as one mask over their logits

A mask depends on the token before it, so a batch with such rows reads its tokens before it picks the next
ones, while the device computes the pass between them (`decode`). Other batches are not touched.
"""
