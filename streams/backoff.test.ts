import { expect, test } from "vitest";
import { unlessAborted } from "./backoff.ts";

test("work that is not waited for, or not any more, may fail without anybody", async () => {
  const unhandled: unknown[] = [];
  const hear = (error: unknown) => void unhandled.push(error);
  process.on("unhandledRejection", hear);
  const before = Promise.withResolvers<void>();
  await unlessAborted(before.promise, AbortSignal.abort());
  before.reject(new Error("before"));
  const meanwhile = Promise.withResolvers<void>();
  const over = new AbortController();
  const waiting = unlessAborted(meanwhile.promise, over.signal);
  over.abort();
  await waiting;
  meanwhile.reject(new Error("meanwhile"));
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", hear);
  expect(unhandled).toEqual([]);
});

test("work that fails while it is waited for says so", async () => {
  await expect(unlessAborted(Promise.reject(new Error("said")), new AbortController().signal)).rejects.toThrow("said");
});
