/** Runs the cells of the matrix as tests: one for each operation and attack of these risks. */
import { afterAll, describe, expect, test } from "vitest";
import { onStage, worldsEnded } from "./attack.ts";
import { attacks, cellsOf, type Risk } from "./matrix.ts";
import { targets } from "./targets.ts";

export function runCells(...risks: readonly Risk[]): void {
  afterAll(worldsEnded);
  const attacked = targets.filter((target) => risks.some((risk) => typeof cellsOf(target)[risk] !== "string"));
  for (const target of attacked) {
    describe(target.name, () => {
      for (const risk of risks) {
        const cell = cellsOf(target)[risk];
        if (typeof cell === "string") continue;
        for (const name of cell) {
          test(`${risk}: ${name}`, () =>
            onStage(target, async (stage) => {
              await attacks[name](stage);
              // An attack that looked at nothing has shown nothing.
              expect(stage.world.judged).toBeGreaterThan(0);
            }));
        }
      }
    });
  }
}
