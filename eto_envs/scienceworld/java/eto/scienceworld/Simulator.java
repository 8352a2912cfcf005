package eto.scienceworld;

import java.lang.reflect.Field;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import main.scala.scienceworld.runtime.SimplifierProcessor$;
import scala.Option;
import scala.Tuple2;
import scala.Tuple3;
import scala.util.Random$;
import scienceworld.environments.EnvironmentMaker$;
import scienceworld.goldagent.PathFinder$;
import scienceworld.objects.agent.Agent;
import scienceworld.objects.location.Universe;
import scienceworld.runtime.AgentInterface;
import scienceworld.runtime.pythonapi.PythonInterface;
import scienceworld.tasks.Task;
import scienceworld.tasks.TaskMaker1;
import util.UniqueIdentifier$;

/**
 * The operations on a {@link World}.
 *
 * <p>The simulator stores its random generator, its counter of unique ids and the enabled
 * simplifications in global variables. They belong to the active world, and every call first
 * activates its own world. For use by a single thread.
 */
final class Simulator {
  private static final String FIRST_ACTION = "look around";
  private static final String UNKNOWN_ACTION =
      "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible"
          + " object referents. ";

  private final SwitchableRandom random = new SwitchableRandom();
  private final Families families; // null: the slow, plain way
  private final Draws draws;
  private World active;
  private String activeSimplifications;

  Simulator(boolean fast) throws ReflectiveOperationException {
    Field self = scala.util.Random.class.getDeclaredField("self");
    self.setAccessible(true);
    self.set(Random$.MODULE$, random);
    families = fast ? new Families(random) : null;
    draws = fast ? new Draws(random) : null;
    if (fast) {
      Referents.forget(); // fails here, and not in a step, if its methods are not there
    }
  }

  /** The number of variations of every task. */
  Map<String, Integer> variations() {
    if (families != null) {
      return families.variations();
    }
    leave();
    TaskMaker1 maker = new TaskMaker1();
    Map<String, Integer> variations = new TreeMap<>();
    for (String task : maker.getTaskList()) {
      variations.put(task, maker.getMaxVariations(task));
    }
    return variations;
  }

  /** The description of a task, as shown to the agent. */
  String describe(String task, int variation) {
    leave();
    TaskMaker1 maker = makerFor(task, variation);
    random.setSeed(variation);
    return maker.getTask(task).get().setupGoals(variation).description().trim();
  }

  /** Begins a task: sets the world up as the original does, and looks around once. */
  void load(World world, String task, int variation, String simplifications) {
    leave();
    world.restart();
    TaskMaker1 maker = makerFor(task, variation);
    random.setSeed(variation);
    Tuple2<?, ?> made = EnvironmentMaker$.MODULE$.mkKitchenEnvironment(variation);
    Universe universe = (Universe) made._1();
    Agent agent = (Agent) made._2();
    Tuple2<?, ?> setup = maker.doTaskSetup(task, variation, universe, agent);
    Option<?> goals = (Option<?>) setup._1();
    if (goals.isEmpty()) {
      throw new IllegalArgumentException(task + "/" + variation + ": " + setup._2());
    }
    world.simulator = new AgentInterface(universe, agent, (Task) goals.get(), simplifications);
    if (world.simulator.isInErrorState()) {
      throw new IllegalArgumentException(world.simulator.getErrorStateMessage());
    }
    world.simplifications = SimplifierProcessor$.MODULE$.getSimplificationsUsed().replace(" ", "");
    activeSimplifications = world.simplifications;
    active = world;
    step(world, FIRST_ACTION); // starts the goals' trackers: without it, scores change
  }

  /** Carries out an action and records its result. */
  void step(World world, String action) {
    enter(world);
    String answer = answerOf(world, action.trim().toLowerCase(Locale.ROOT));
    if (answer != null) {
      world.record(answer, world.score, world.completed);
    } else {
      run(world, action);
    }
    world.randomBeforeDraws = random.state();
    if (draws != null) {
      draws.draw(world.simulator);
    } else {
      world.simulator.getValidActionObjectCombinations();
    }
  }

  private void run(World world, String action) {
    if (families != null) {
      Referents.remember();
    }
    try {
      Tuple3<?, ?, ?> outcome = world.simulator.step(action);
      String text = (String) outcome._1();
      world.record(
          text.isEmpty() ? UNKNOWN_ACTION : text, (Double) outcome._2(), (Boolean) outcome._3());
    } finally {
      if (families != null) {
        Referents.forget();
      }
    }
  }

  /** The original interface's own response, without the simulator; null if it has none. */
  private String answerOf(World world, String action) {
    switch (action) {
      case "help":
        return "Possible actions: \n\t"
            + String.join("\n\t", world.simulator.getPossibleActions());
      case "objects":
        return "Possible object references: \n\t"
            + String.join("\n\t", world.simulator.getPossibleObjects());
      case "task":
        return "Task description:\n" + world.simulator.getTaskDescription();
      default:
        return null;
    }
  }

  /** The description of the room; does not advance the clock. */
  String look(World world) {
    enter(world);
    return world.simulator.freeActionLook();
  }

  /** What the agent carries; does not advance the clock. */
  String inventory(World world) {
    enter(world);
    return world.simulator.freeActionInventory();
  }

  /** The valid actions after the last step, sorted; has no effect on the world. */
  String[] validActions(World world) {
    enter(world);
    long after = random.state();
    random.setState(world.randomBeforeDraws);
    String[] actions = world.simulator.getValidActionObjectCombinations();
    long drawn = random.state();
    random.setState(after);
    if (drawn != after) {
      throw new IllegalStateException("listing the valid actions drew other numbers than a step");
    }
    Arrays.sort(actions);
    return actions;
  }

  /** The progress towards each goal of the task. */
  String progress(World world) {
    enter(world);
    return world.simulator.getGoalProgressStr();
  }

  /** The simulator's own solution of a task. */
  List<String> goldActions(String task, int variation, String simplifications) {
    leave();
    activeSimplifications = null; // the generator sets its own
    // Search routes are drawn at random and cached for all tasks: with those of an earlier task,
    // neither the route nor any later draw would be the same.
    PathFinder$.MODULE$.precomputedExhaustivePaths().clear();
    PythonInterface generator = new PythonInterface();
    String error = generator.load(task, variation, simplifications, true);
    if (!error.isEmpty()) {
      throw new IllegalArgumentException(error);
    }
    return generator.getGoldActionSequence();
  }

  private TaskMaker1 makerFor(String task, int variation) {
    Integer count = variations().get(task);
    if (count == null || variation < 0 || variation >= count) {
      throw new IllegalArgumentException("there is no task " + task + "/" + variation);
    }
    if (families != null) {
      return families.makerFor(task, variation);
    }
    UniqueIdentifier$.MODULE$.reset();
    random.setSeed(variation);
    return new TaskMaker1();
  }

  private void enter(World world) {
    if (active == world) {
      return;
    }
    leave();
    random.setState(world.random);
    UniqueIdentifier$.MODULE$.count_$eq(world.nextId);
    if (!world.simplifications.equals(activeSimplifications)) {
      SimplifierProcessor$.MODULE$.parseSimplificationStr(world.simplifications);
      activeSimplifications = world.simplifications;
    }
    active = world;
  }

  private void leave() {
    if (active != null) {
      active.random = random.state();
      active.nextId = UniqueIdentifier$.MODULE$.count();
      active = null;
    }
  }
}
