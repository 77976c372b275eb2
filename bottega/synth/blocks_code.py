"""The block that runs what a teacher wrote as a program, against tests that it wrote apart from it, in the sandbox.

Left out: other languages than Python with its standard library; tasks without tests.
"""

from __future__ import annotations

import asyncio

from bottega.core.errors import UserError
from bottega.grade import sandbox
from bottega.grade.unit_tests import num_tests, passed_share, program
from bottega.synth.blocks import Block, Context, Stream, column, text_of
from bottega.synth.blocks_teacher import ordered
from bottega.synth.pipeline_account import Row

NOTHING = "pass\n"
"""A program that solves no task: tests that it passes test nothing."""


def program_passes(*, code: str, tests: str, least: int = 2, seconds: float = 5.0, memory_mb: int = 512) -> Block:
    """Keep the rows whose program passes all tests. Both columns may hold prose around a fenced block, which is then what counts.

    Args:
        code, tests: columns. least: tests that there must be. seconds, memory_mb: what each run may use.

    Tests that an empty program passes are rejected too, and the tests are then written back without what stood around them.
    """
    if least < 1:
        raise UserError(f"program: least is {least}, but must be at least 1; change it")
    limits = sandbox.Limits(seconds=seconds, memory_mb=memory_mb)

    def verdict(row: Row) -> tuple[str, float | None, str]:
        """Why the row goes, or nothing; the share of tests passed; the tests."""
        asked, written = program(text_of(column(row, tests))), program(text_of(column(row, code)))
        try:
            if (count := num_tests(asked)) < least:
                return "too few tests", float(count), asked
            if passed_share(NOTHING, asked, limits) > 0:
                return "the tests pass without a program", None, asked
            share = passed_share(written, asked, limits)
        except UserError as error:
            return "the tests are no tests", None, str(error)
        return ("" if share == 1.0 else "the program fails its tests"), share, asked

    async def block(rows: Stream, context: Context) -> Stream:
        if (reason := sandbox.missing()) is not None:
            raise UserError(reason)

        async def work(row: Row) -> tuple[str, float | None, str]:
            return await asyncio.to_thread(verdict, row)

        async for row, (why, share, asked) in ordered(rows, context, work):
            if why:
                context.reject(row, why, score=share, detail=asked[:400])
            else:
                yield {**row, tests: asked}

    return block
