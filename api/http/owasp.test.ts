/** The matrix of tests/owasp itself: no operation, no cell and no attack is missing, and every attack begins with a call that is taken. */
import { describe, expect, test } from "vitest";
import { onStage } from "../../tests/owasp/attack.ts";
import { attacks, cellsOf, RISKS, type Risk } from "../../tests/owasp/matrix.ts";
import { own } from "../../tests/owasp/own-cells.ts";
import { renderMatrix } from "../../tests/owasp/page.ts";
import { examples, targets } from "../../tests/owasp/targets.ts";
import { inMemoryPorts } from "../in-memory-ports.ts";
import { createHttpApp } from "./app.ts";
import { servedToOperators } from "./openapi.ts";
import { operatorRoutes, routes } from "./routes.ts";

const risks = Object.keys(RISKS) as Risk[];

test("every operation that is served stands in the matrix, and nothing else does", () => {
  // Each port has a document besides.
  expect(targets).toHaveLength(routes.length + operatorRoutes.length + 2);
  expect(targets.length).toBeGreaterThan(30);
  const served = targets.map(({ name }) => name).toSorted();
  expect(new Set(served).size).toBe(served.length);
  expect(Object.keys(own).toSorted()).toEqual(served);
  expect(Object.keys(examples).toSorted()).toEqual(served);
});

test("nothing but these operations is served", () => {
  const served = {
    agents: createHttpApp(inMemoryPorts()),
    operators: createHttpApp(inMemoryPorts(), servedToOperators),
  };
  for (const [port, app] of Object.entries(served)) {
    const paths = targets.filter((target) => target.port === port).map(({ route }) => route.path);
    const inRouter = app.router.stack.flatMap(({ route }) => route?.path ?? []);
    expect(inRouter.length).toBeGreaterThan(5);
    const declared = new Set(paths.map((path) => path.replaceAll(/\{(\w+)\}/g, ":$1")));
    expect(new Set(inRouter)).toEqual(declared);
  }
});

test("every cell has attacks, or says why there are none", () => {
  for (const target of targets) {
    const cells = cellsOf(target);
    expect(Object.keys(cells)).toEqual(risks);
    for (const risk of risks) {
      const cell = cells[risk];
      const where = `${target.name} ${risk}`;
      if (typeof cell === "string") expect(cell.length, where).toBeGreaterThan(15);
      else {
        expect(cell.length, where).toBeGreaterThan(0);
        expect(
          cell.filter((name) => attacks[name] === undefined),
          where,
        ).toEqual([]);
        expect(new Set(cell).size, where).toBe(cell.length);
      }
    }
  }
});

test("every attack is made on some operation", () => {
  const made = new Set(
    targets.flatMap((target) =>
      Object.values(cellsOf(target)).flatMap((cell) => (typeof cell === "string" ? [] : cell)),
    ),
  );
  expect(Object.keys(attacks).filter((name) => !made.has(name as never))).toEqual([]);
  expect(made.size).toBeGreaterThan(50);
});

test("the page is made from the matrix", async () => {
  await expect(renderMatrix()).toMatchFileSnapshot("../../docs/security-tests.md");
});

describe("the call that attacks begin with is taken", () => {
  test.each(targets.map((target) => [target.name, target] as const))("%s", (_, target) =>
    onStage(target, async (stage) => {
      const answer = await stage.ask(stage.example());
      if (target.name === "stream") expect(answer.status, "an upgrade is needed").toBe(426);
      else expect([200, 201, 202], answer.text).toContain(answer.status);
      expect(stage.world.service.ports.bugs).toEqual([]);
    }),
  );
});

test("what is stored and appended is seen to change: a refusal that changed something would be found out", async () => {
  const changing = targets.filter(({ route }) => route.method !== "GET");
  const unchanged: string[] = [];
  for (const target of changing) {
    await onStage(target, async (stage) => {
      const example = stage.example();
      const before = stage.world.state();
      expect(Object.keys(before).length).toBeGreaterThan(7);
      await stage.ask(example);
      if (JSON.stringify(stage.world.state()) === JSON.stringify(before)) unchanged.push(target.name);
    });
  }
  // These answer what is, or leave what they did in other doors.
  expect(unchanged.toSorted()).toEqual(["messageStatuses", "rotateAgent", "beginSession"].toSorted());
});
