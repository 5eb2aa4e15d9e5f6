import kafkajs, { type KafkaJSProtocolError } from "kafkajs";
import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { useStage } from "../tests/runner-stage.ts";

const stage = useStage();

/** As kafkajs makes it of a broker's answer. */
function answered(type: string, code: number): KafkaJSProtocolError {
  return new kafkajs.KafkaJSProtocolError(Object.assign(new Error(type), { type, code, retriable: true }));
}

test.each([
  ["NOT_LEADER_FOR_PARTITION", 6],
  ["LEADER_NOT_AVAILABLE", 5],
])("a question that meets %s is asked again until there is a leader", async (type, code) => {
  let asked = 0;
  const answer = await stage().kafka.ask(async (admin) => {
    asked += 1;
    if (asked < 3) throw answered(type, code);
    return admin.listTopics();
  });
  expect(asked).toBe(3);
  expect(Array.isArray(answer)).toBe(true);
});

test("what goes wrong for another reason is not asked again, and the next question gets its answer", async () => {
  let asked = 0;
  const question = stage().kafka.ask(() => {
    asked += 1;
    throw answered("REQUEST_TIMED_OUT", 7);
  });
  await expect(question).rejects.toThrow(Unavailable);
  expect(asked).toBe(1);
  expect(await stage().kafka.ask((admin) => admin.listTopics())).toBeInstanceOf(Array);
});
