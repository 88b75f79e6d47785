"""From other threads to the event loop."""

from __future__ import annotations

import asyncio
import threading

from mlflow_llm_plugins.serving.mailbox import Mailbox


def test_every_thread_s_calls_are_made_on_the_loop_in_its_order():
    async def main():
        mailbox = Mailbox(asyncio.get_running_loop())
        seen, done, home = {0: [], 1: [], 2: []}, asyncio.Event(), threading.get_ident()

        def arrive(thread, number):
            assert threading.get_ident() == home
            seen[thread].append(number)
            if all(len(numbers) == 2000 for numbers in seen.values()):
                done.set()

        def post(thread):
            for number in range(2000):
                mailbox.post(arrive, thread, number)

        threads = [threading.Thread(target=post, args=(i,)) for i in seen]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 30)
        for thread in threads:
            thread.join()
        return seen

    seen = asyncio.run(main())
    assert all(numbers == list(range(2000)) for numbers in seen.values())


def test_a_closed_loop_drops_what_is_posted():
    loop = asyncio.new_event_loop()
    mailbox, called = Mailbox(loop), []
    loop.close()
    mailbox.post(called.append, 1)
    mailbox.post(called.append, 2)
    assert called == []
