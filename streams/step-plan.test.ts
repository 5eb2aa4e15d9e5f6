import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createHalving } from "./halving.ts";
import { admit, isInside } from "./log-range.ts";
import { planStep, stepLimits } from "./step-plan.ts";

const weighed = fc.record({ bytes: fc.nat(400_000), items: fc.integer({ min: 1, max: 256 }) });
const queues = fc.array(fc.array(weighed, { maxLength: 30 }), { maxLength: 6 });

describe("a step", () => {
  test("takes a beginning of the queues laid end to end, within the limits, and never nothing", () => {
    fc.assert(
      fc.property(queues, fc.integer({ min: 1, max: 40 }), (queues, records) => {
        const limits = { ...stepLimits, records };
        const counts = planStep(queues, limits);
        const taken = queues.flatMap((queue, index) => queue.slice(0, counts[index]));
        const all = queues.flat();
        const bytes = taken.reduce((sum, one) => sum + one.bytes, 0);
        const items = taken.reduce((sum, one) => sum + one.items, 0);
        const next = all[taken.length];
        expect(taken).toEqual(all.slice(0, taken.length));
        expect(taken.length).toBeGreaterThanOrEqual(Math.min(1, all.length));
        expect(taken.length <= records && bytes <= limits.bytes && items <= limits.items).toBe(true);
        const isFull =
          next === undefined ||
          taken.length === records ||
          bytes + next.bytes > limits.bytes ||
          items + next.items > limits.items;
        expect(isFull).toBe(true);
      }),
    );
  });

  test("takes a record that is over the limits by itself", () => {
    const huge = { bytes: 2 * stepLimits.bytes, items: 1 };
    expect(planStep([[], [huge, huge]], stepLimits)).toEqual([0, 1]);
  });
});

describe("halving", () => {
  /** Runs steps over records of which some are bad; answers what was condemned and how many steps failed. */
  function search(records: number, bad: ReadonlySet<number>): { condemned: number[]; failures: number } {
    const halving = createHalving(500);
    const condemned: number[] = [];
    let failures = 0;
    for (let at = 0; at < records; ) {
      const end = Math.min(records, at + halving.recordsMax);
      const isBad = Array.from({ length: end - at }, (_, i) => at + i).some(
        (i) => bad.has(i) && !condemned.includes(i),
      );
      if (!isBad) {
        halving.succeeded();
        at = end;
      } else {
        failures++;
        if (halving.failed(end - at, String(at)) === "condemned") condemned.push(at);
      }
    }
    return { condemned, failures };
  }

  test("condemns exactly the records that fail alone, each after a few dozen steps at most", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_200 }), fc.array(fc.nat(1_199), { maxLength: 5 }), (records, indices) => {
        const bad = new Set(indices.filter((index) => index < records));
        const { condemned, failures } = search(records, bad);
        expect(condemned).toEqual(Array.from(bad).sort((a, b) => a - b));
        expect(failures).toBeLessThanOrEqual(bad.size * 24);
      }),
    );
  });

  test("gives a record that fails alone a second chance", () => {
    const halving = createHalving(500);
    expect(halving.failed(1, "a")).toBe("again");
    expect(halving.failed(1, "b")).toBe("again");
    halving.succeeded();
    expect(halving.failed(1, "b")).toBe("again");
    expect(halving.failed(1, "b")).toBe("condemned");
  });
});

describe("a batch", () => {
  test("is applied only where it starts at the position", () => {
    expect(admit(10, 10, 20)).toBe("apply");
    expect(admit(10, 4, 20)).toBe("seek");
    expect(admit(10, 12, 20)).toBe("ask");
    expect(admit(10, 0, 3)).toBe("outside");
  });

  test("may wait at the end of the log, but a position is never behind its end or before its start", () => {
    expect([4, 5, 9, 10].map((position) => isInside(position, { low: 5, high: 9 }))).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });
});
