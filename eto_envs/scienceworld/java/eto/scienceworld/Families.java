package eto.scienceworld;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import scienceworld.tasks.TaskMaker1;
import util.UniqueIdentifier$;

/**
 * The families of tasks that {@code TaskMaker1} registers, of which a load only has to build one.
 *
 * <p>The original builds all thirty task types for every load, which takes most of the time.
 * Building a family draws random numbers and unique ids. Their number does not depend on the seed,
 * so those of the other families can be skipped.
 */
public final class Families {
  /** In the order of {@code TaskMaker1.registerTasks}. */
  private static final String[] NAMES = {
    "TaskChangeOfState",
    "TaskElectricCircuit",
    "TaskElectricalConductivity",
    "TaskElectricalConductivity2",
    "TaskFindLivingNonLiving",
    "TaskGrowPlant",
    "TaskChemistryMix",
    "TaskChemistryMixPaint",
    "TaskLifeSpan",
    "TaskIdentifyLifeStages1",
    "TaskIdentifyLifeStages2",
    "TaskInclinedPlane1",
    "TaskInclinedPlane2",
    "TaskInclinedPlane3",
    "TaskMendelianGenetics1",
    "TaskMendelianGenetics2",
    "TaskUseInstrumentThermometer",
    "TaskUseInstrumentThermometer2",
    "TaskUseInstrumentThermometer3",
  };

  private static final MethodHandle REGISTER_ALL = findRegisterAll();

  /** What the next {@code TaskMaker1} registers; null for everything, as in the original. */
  private static Family wanted;

  private static final class Family {
    private MethodHandle register;
    private int drawnBefore;
    private long idsBefore;
  }

  private final SwitchableRandom random;
  private final Map<String, Family> familyOfTask = new HashMap<>();
  private final Map<String, Integer> variations = new TreeMap<>();
  private final int drawnByAll;
  private final long idsOfAll;

  Families(SwitchableRandom random) throws ReflectiveOperationException {
    this.random = random;
    UniqueIdentifier$.MODULE$.reset();
    int start = random.drawn();
    for (String name : NAMES) {
      Family family = new Family();
      Class<?> type = Class.forName("scienceworld.tasks.specifictasks." + name + "$");
      family.register =
          MethodHandles.lookup()
              .findVirtual(
                  type, "registerTasks", MethodType.methodType(void.class, TaskMaker1.class))
              .bindTo(type.getField("MODULE$").get(null));
      family.drawnBefore = random.drawn() - start;
      family.idsBefore = UniqueIdentifier$.MODULE$.count();
      TaskMaker1 maker = make(family);
      for (String task : maker.getTaskList()) {
        familyOfTask.put(task, family);
        variations.put(task, maker.getMaxVariations(task));
      }
    }
    drawnByAll = random.drawn() - start;
    idsOfAll = UniqueIdentifier$.MODULE$.count();
    checkAgainstOriginal();
  }

  /** A maker that knows the family of {@code task}; random state and ids as after a full one. */
  TaskMaker1 makerFor(String task, int variation) {
    Family family = familyOfTask.get(task);
    UniqueIdentifier$.MODULE$.count_$eq(family.idsBefore);
    random.setSeed(variation);
    random.skip(family.drawnBefore);
    TaskMaker1 maker = make(family);
    UniqueIdentifier$.MODULE$.count_$eq(idsOfAll);
    return maker;
  }

  /** The number of variations of every task. */
  Map<String, Integer> variations() {
    return variations;
  }

  /** Replaces {@code TaskMaker1.registerTasks}. */
  public static void registerWanted(TaskMaker1 maker) throws Throwable {
    if (wanted == null) {
      REGISTER_ALL.invokeExact(maker);
    } else {
      wanted.register.invokeExact(maker);
    }
  }

  private static TaskMaker1 make(Family family) {
    wanted = family;
    try {
      return new TaskMaker1();
    } finally {
      wanted = null;
    }
  }

  private void checkAgainstOriginal() {
    UniqueIdentifier$.MODULE$.reset();
    int start = random.drawn();
    TaskMaker1 maker = make(null);
    boolean same =
        random.drawn() - start == drawnByAll
            && UniqueIdentifier$.MODULE$.count() == idsOfAll
            && variations.keySet().equals(Set.of(maker.getTaskList()));
    if (!same) {
      throw new IllegalStateException("this simulator registers its tasks in another way");
    }
  }

  private static MethodHandle findRegisterAll() {
    try {
      return MethodHandles.privateLookupIn(TaskMaker1.class, MethodHandles.lookup())
          .findVirtual(
              TaskMaker1.class,
              "registerTasks" + SimulatorLoader.ORIGINAL,
              MethodType.methodType(void.class));
    } catch (ReflectiveOperationException error) {
      throw new IllegalStateException(error);
    }
  }
}
