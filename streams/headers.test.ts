import { expect, test } from "vitest";
import { appendEventId, eventHeaders, headersAsText, stepEventId } from "./headers.ts";

const cause = { topic: "t", partition: 1, offset: 23 };

test("an event's id is a UUIDv5 of what it is: the same again for the same, another for anything else", () => {
  const id = stepEventId("g", cause, 0);
  expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(stepEventId("g", { ...cause }, 0)).toBe(id);
  const others = [
    stepEventId("g", cause, 1),
    stepEventId("h", cause, 0),
    stepEventId("g", { ...cause, offset: 2 }, 30),
    appendEventId("t", "sender", "item"),
  ];
  expect(new Set([id, ...others]).size).toBe(5);
});

test("ids never change between versions of this program: readers remember them", () => {
  expect(stepEventId("queuing", { topic: "message.encrypted.v1", partition: 3, offset: 77 }, 2)).toBe(
    "18c2bff3-7da0-50b9-ba4a-4cc2bb48b5b2",
  );
  expect(appendEventId("message.encrypted.v1", "alice", "01890a5d-ac96-774b-bcce-b302099a8057")).toBe(
    "f4eaaf3c-6be5-506a-a6fe-dc0903aeb8c9",
  );
});

test("headers are CloudEvents in binary mode, with the trace handed on where there is one", () => {
  const head = { id: "i", source: "/sealpost/acks", time: 1_700_000_000_123, subject: "s" };
  const headers = eventHeaders("message.delivered.v1", head);
  expect(headers).toEqual({
    ce_specversion: "1.0",
    ce_id: "i",
    ce_type: "message.delivered.v1",
    ce_source: "/sealpost/acks",
    ce_time: "2023-11-14T22:13:20.123Z",
    ce_subject: "s",
    "content-type": "application/avro",
  });
  expect(eventHeaders("t", { ...head, traceparent: "00-a-b-01" })).toMatchObject({ traceparent: "00-a-b-01" });
});

test("headers are read as text, the last of a name counts", () => {
  expect(headersAsText(undefined)).toEqual({});
  expect(headersAsText({ a: Buffer.from("1"), b: ["x", Buffer.from("y")], c: undefined })).toEqual({ a: "1", b: "y" });
});
