/** What an attack is: the call of an operation with something wrong, and what must come of it. */
import type { HttpDeps } from "../../api/http/route.ts";
import type { SigningOptions } from "../signing.ts";
import { exampleOf, type Target } from "./targets.ts";
import { type Ask, openWorld, type Told, type World } from "./world.ts";

export type Attack = (stage: Stage) => Promise<void>;

/** A target in a world of its own. */
export class Stage {
  readonly target: Target;
  readonly world: World;

  constructor(target: Target, world: World) {
    this.target = target;
    this.world = world;
  }

  /** A call that is taken, made anew. */
  example(): Ask {
    return exampleOf(this.target, this.world);
  }

  ask(ask: Ask, options: SigningOptions = {}): Promise<Told> {
    return this.world.ask(this.target.port, ask, options);
  }

  /** As `World.expectRefused`. */
  refused(codes: readonly string[], ask: Ask, options: SigningOptions = {}, because = ""): Promise<Told> {
    return this.world.expectRefused(() => this.ask(ask, options), codes, because);
  }
}

/** Nobody waits for a world's end between two attacks. */
const closing: Promise<void>[] = [];

/** Resolves when all worlds so far have ended. */
export async function worldsEnded(): Promise<void> {
  await Promise.all(closing.splice(0));
}

/** @param overrides of the ports */
export async function onStage(
  target: Target,
  act: (stage: Stage) => Promise<void>,
  overrides: Partial<HttpDeps> = {},
): Promise<void> {
  const world = await openWorld(overrides);
  try {
    await act(new Stage(target, world));
  } finally {
    closing.push(world.service.http.close());
  }
}
