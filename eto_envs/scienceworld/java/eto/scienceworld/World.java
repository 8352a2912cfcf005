package eto.scienceworld;

import java.nio.charset.StandardCharsets;
import java.util.zip.CRC32;
import scienceworld.runtime.AgentInterface;

/** A simulated world, including the state that the simulator stores globally while it is active. */
final class World {
  /** The simulator; its pieces of the world are reached through it. */
  AgentInterface simulator;

  /** State of the shared random generator, between this world's calls. */
  long random;

  /** The next unique id, between this world's calls. */
  long nextId;

  /** The enabled simplifications, in the simulator's spelling. */
  String simplifications = "";

  /** State of the random generator before the draws that follow a step (see {@link Draws}). */
  long randomBeforeDraws;

  /** The result of the last action. */
  String observation = "";

  double score;
  boolean completed;

  private final CRC32 digest = new CRC32();

  /** Records the result of an action. */
  void record(String observation, double score, boolean completed) {
    this.observation = observation;
    this.score = score;
    this.completed = completed;
    digest.update(observation.getBytes(StandardCharsets.UTF_8));
    long bits = Double.doubleToLongBits(score);
    for (int shift = 0; shift < Long.SIZE; shift += Byte.SIZE) {
      digest.update((int) (bits >>> shift) & 0xff);
    }
    digest.update(completed ? 1 : 0);
  }

  /** Discards the recorded results. */
  void restart() {
    digest.reset();
  }

  /** Checksum of every observation, score and end since the load. */
  int digest() {
    return (int) digest.getValue();
  }

  /** Ticks of the simulator's clock. */
  int ticks() {
    return simulator.getCurIterations();
  }
}
