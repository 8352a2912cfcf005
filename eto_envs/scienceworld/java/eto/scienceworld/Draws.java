package eto.scienceworld;

import java.util.Arrays;
import scala.collection.mutable.Set;
import scienceworld.input.InputParser$;
import scienceworld.runtime.AgentInterface;
import scienceworld.struct.EnvObject;

/**
 * The random numbers that the original interface draws after every step.
 *
 * <p>The original Python class lists all valid actions after each step, which draws from the
 * generator that also moves bees and pollen. To get the same worlds, the same numbers are drawn
 * here, but without making the list: the only code that draws is
 * {@code InputParser.chooseUniqueReferents}, which picks a name for each object.
 */
final class Draws {
  private static final int ROUNDS = 20;
  private static final int FIRST_RANDOM_ROUND = 10;

  private final SwitchableRandom random;
  private int[] counts = new int[0]; // by name's number; all zero between calls

  Draws(SwitchableRandom random) {
    this.random = random;
  }

  /** Draws as {@code getValidActionObjectCombinations} would, without any other effect. */
  void draw(AgentInterface simulator) {
    if (simulator.inputParser().isInAmbiguousState()) {
      return; // then the list is that of the choices, and nothing is drawn
    }
    Names.beginPass();
    EnvObject here = simulator.getAgentVisibleObjects(false)._2();
    drawFor(InputParser$.MODULE$.collectObjects(here, false), here);
    drawFor(InputParser$.MODULE$.collectObjects(simulator.universe(), true), here);
  }

  private void drawFor(Set<EnvObject> objects, EnvObject here) {
    EnvObject[] array = new EnvObject[objects.size()];
    objects.copyToArray(array);
    int[][] names = new int[array.length][];
    for (int i = 0; i < names.length; i++) {
      names[i] = Names.of(array[i], here).numbers;
      if (names[i].length == 0) {
        throw new IllegalStateException("the original cannot name object " + array[i].name());
      }
    }
    if (counts.length < Names.count()) {
      counts = new int[2 * Names.count()];
    }
    choose(onlyUnique(names));
  }

  /** The names of each object that no other object has; all its names if there are none. */
  private int[][] onlyUnique(int[][] names) {
    for (int[] own : names) {
      for (int name : own) {
        counts[name]++;
      }
    }
    int[][] unique = new int[names.length][];
    for (int i = 0; i < names.length; i++) {
      int[] kept = Arrays.stream(names[i]).filter(name -> counts[name] == 1).toArray();
      unique[i] = kept.length > 0 ? kept : names[i];
    }
    for (int[] own : names) {
      for (int name : own) {
        counts[name] = 0;
      }
    }
    return unique;
  }

  /** Tries to assign different names to all objects: first in turn, then at random. */
  private void choose(int[][] names) {
    int[] chosen = new int[names.length];
    for (int round = 0; round < ROUNDS; round++) {
      for (int i = 0; i < names.length; i++) {
        counts[names[i][chosen[i]]]++;
      }
      int[] before = chosen.clone();
      for (int i = 0; i < names.length; i++) {
        // Looked up as the original does, in counts that are of the round's start.
        if (counts[names[i][chosen[i]]] > 1) {
          chosen[i] =
              round < FIRST_RANDOM_ROUND
                  ? (chosen[i] + 1) % names[i].length
                  : random.nextInt(names[i].length);
        }
      }
      for (int i = 0; i < names.length; i++) {
        counts[names[i][before[i]]] = 0;
      }
    }
  }
}
