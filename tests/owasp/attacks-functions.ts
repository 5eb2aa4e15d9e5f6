/** API5: calls of one kind of caller, made by another. */
import { expect } from "vitest";
import { type Attack, onStage } from "./attack.ts";
import { managing } from "./owner-tokens.ts";

export const agentFunctionAttacks = {
  "the operators' token instead of a signature": async (stage) => {
    const { opsToken } = stage.world.service.ports;
    await stage.refused(["signature-missing"], { ...stage.example(), as: { bearer: opsToken ?? "" } });
  },
  "an owner's statement instead of a signature": async (stage) => {
    await stage.refused(["signature-missing"], { ...stage.example(), as: { bearer: managing("team-1") } });
  },
  "on the operators' port, signed or with their token": async (stage) => {
    const { as: _, ...ask } = stage.example();
    const { opsToken } = stage.world.service.ports;
    for (const as of [stage.example().as, { bearer: opsToken ?? "" }, null]) {
      await stage.world.expectRefused(() => stage.world.ask("operators", { ...ask, as }), ["not-found"]);
    }
  },
} satisfies Record<string, Attack>;

export const ownerFunctionAttacks = {
  "the operators' token instead of a statement": async (stage) => {
    await stage.refused(["owner-unknown"], {
      ...stage.example(),
      as: { bearer: stage.world.service.ports.opsToken ?? "" },
    });
  },
  "an agent's signature instead of a statement": async (stage) => {
    for (const as of [stage.world.caller, stage.world.victim]) {
      await stage.refused(["owner-unknown"], { ...stage.example(), as });
    }
  },
  "on the operators' port, with either token": async (stage) => {
    const example = stage.example();
    for (const as of [example.as, { bearer: stage.world.service.ports.opsToken ?? "" }]) {
      await stage.world.expectRefused(() => stage.world.ask("operators", { ...example, as }), ["not-found"]);
    }
  },
} satisfies Record<string, Attack>;

export const custodyAttacks = {
  "an agent of the other custody": async (stage) => {
    const { caller, held } = stage.world;
    const example = stage.example();
    const other = example.as === held ? caller : held;
    await stage.refused(["custody-mismatch"], { ...example, as: other });
  },
} satisfies Record<string, Attack>;

export const operatorFunctionAttacks = {
  "an agent's signature instead of the token": async (stage) => {
    for (const as of [stage.world.caller, stage.world.victim, stage.world.held]) {
      await stage.refused(["operator-unknown"], { ...stage.example(), as });
    }
  },
  "an owner's statement instead of the token": async (stage) => {
    await stage.refused(["operator-unknown"], { ...stage.example(), as: { bearer: managing("team-2") } });
  },
  "on the agents' port": async (stage) => {
    const { opsToken } = stage.world.service.ports;
    for (const as of [{ bearer: opsToken ?? "" }, stage.world.caller]) {
      const ask = { ...stage.example(), as };
      if (ask.path !== "/openapi.json") {
        await stage.world.expectRefused(() => stage.world.ask("agents", ask), ["not-found"]);
        continue;
      }
      // There the document of agents lies: it says nothing of operators' calls.
      const { text } = await stage.world.ask("agents", ask);
      expect(text).not.toContain('"/ops/');
      stage.world.judged += 1;
    }
  },
  "in a service without a token of operators": (stage) =>
    onStage(
      stage.target,
      async (without) => {
        const example = without.example();
        for (const bearer of ["undefined", "null", "x", stage.world.service.ports.opsToken ?? ""]) {
          await without.refused(["not-found", "operator-unknown"], { ...example, as: { bearer } });
        }
        stage.world.judged += without.world.judged;
      },
      { opsToken: undefined },
    ),
} satisfies Record<string, Attack>;

export const openFunctionAttacks = {
  "on the operators' port, without their token": async (stage) => {
    const codes = ["not-found", "operator-unknown"];
    await stage.world.expectRefused(() => stage.world.ask("operators", stage.example()), codes);
  },
} satisfies Record<string, Attack>;
