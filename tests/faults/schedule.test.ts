import { expect, test } from "vitest";
import { faults } from "./faults/all.ts";
import { choiceOf, schedule } from "./schedule.ts";
import { layouts, worldOf } from "./stage.ts";

const world = worldOf(layouts.few);

test("a seed is a schedule: the same one the same, another one another", () => {
  const plan = schedule(7, 60, world);
  expect(schedule(7, 60, world)).toEqual(plan);
  expect(schedule(8, 60, world)).not.toEqual(plan);
});

test("a schedule that was printed once comes again from its seed, on another day and another machine", () => {
  const processes = ["one", "two", "three"];
  const small = { ...world, processes, links: ["one>kafka", "clients>two"] };
  const choices = ["kill", "reset"].map((name) => choiceOf(name, small));
  expect(schedule(1, 12, small, choices)).toMatchInlineSnapshot(`
    [
      {
        "atMs": 3606,
        "durationMs": 0,
        "fault": "reset",
        "gapMs": 3606,
        "overlaps": false,
        "seed": 1726759124,
        "target": "one>kafka",
      },
      {
        "atMs": 10732,
        "durationMs": 500,
        "fault": "kill",
        "gapMs": 3126,
        "overlaps": false,
        "seed": 1440132851,
        "target": "one",
      },
    ]
  `);
});

test("each kind of fault comes before any comes again, and all are over by the end", () => {
  for (let seed = 1; seed <= 50; seed++) {
    const plan = schedule(seed, 600, world);
    expect(new Set(plan.slice(0, faults.length).map(({ fault }) => fault)).size).toBe(faults.length);
    expect(plan.every(({ atMs, durationMs }) => atMs >= 0 && atMs + durationMs <= 600_000)).toBe(true);
  }
});

test("an hour's mix breaks every process and every server in every way, and freezes some for longer than a group waits", () => {
  for (let seed = 1; seed <= 10; seed++) {
    const plan = schedule(seed, 3_600, world);
    for (const fault of faults) {
      const mine = plan.filter((one) => one.fault === fault.name);
      const targets = fault.targets(world);
      const hit = new Set(mine.map(({ target }) => target));
      // No target comes twice before each has come: where there are more of them than turns, each turn has another.
      expect(hit.size, `${fault.name} of seed ${seed}`).toBe(Math.min(mine.length, targets.length));
      expect(mine.length, `${fault.name} of seed ${seed}`).toBeGreaterThanOrEqual(15);
    }
    for (const kind of ["stop", "stop-server"]) {
      expect(plan.some(({ fault, durationMs }) => fault === kind && durationMs === 45_000)).toBe(true);
    }
  }
});

test("ten minutes of one kind come to each of its targets, or to each process where there are many", () => {
  for (const fault of faults) {
    const targets = fault.targets(world);
    const hit = schedule(3, 600, world, [{ fault, target: null }]).map(({ target }) => target);
    const names = (all: readonly string[]) => new Set(all.map((target) => target.split(/[:/>]/)[0]));
    expect(names(hit), fault.name).toEqual(names(targets));
    if (targets.length <= 6) expect(new Set(hit).size, fault.name).toBe(targets.length);
  }
});

test("every kind has targets, in either layout, and each is one of them", () => {
  for (const layout of Object.values(layouts)) {
    const these = worldOf(layout);
    for (const fault of faults) {
      expect(fault.targets(these), fault.name).not.toEqual([]);
      const [one] = schedule(3, 200, these, [{ fault, target: null }]);
      expect(fault.targets(these), fault.name).toContain(one?.target);
    }
  }
});

test("no connection is broken over which nothing goes", () => {
  const { links } = worldOf(layouts.each);
  expect(links).toContain("acks>postgres");
  expect(links).toContain("clients>api-2");
  expect(links).not.toContain("acks>redis");
  expect(links).not.toContain("receipts>postgres");
});

test("a run that is too short for one fault has none, and does not look for ever", () => {
  expect(schedule(1, 1, world)).toEqual([]);
});

test("a fault or a target that is none is refused, with those that there are", () => {
  expect(() => choiceOf("murder", world)).toThrow("there are kill, stop");
  expect(() => choiceOf("kill:nobody", world)).toThrow("it has api-1, api-2");
  expect(choiceOf("failpoint:acks/acks:after-commit", world).target).toBe("acks/acks:after-commit");
});
