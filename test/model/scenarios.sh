# EPOCHS bounds the length of histories; what is given is what ends in seconds and still has every
# kind of event. PLANT_… is a bug that must be found.
check "one sleeps, one wakes; revoking" holds -DREVOKES=1
check "... and one is stopped anywhere, for ever" holds -DREVOKES=0 -DSTOPS=1 -DEPOCHS=6
check "... and one is killed anywhere" holds -DREVOKES=0 -DKILLS=1 -DEPOCHS=4
check "... and a signal ends the sleep" holds -DREVOKES=1 -DSIGNALS=1 -DEPOCHS=6
check "the set is removed" holds -DREVOKES=0 -DREMOVE -DEPOCHS=4
check "the set is moved" holds -DREVOKES=0 -DMOVE -DEPOCHS=4
check "the set is removed, and the manager is killed meanwhile" holds -DREVOKES=0 -DREMOVE -DDIES=1 -DEPOCHS=4
check "the set is moved, and the manager is killed meanwhile" holds -DREVOKES=0 -DMOVE -DDIES=1 -DEPOCHS=4
check "the short forms, one sleeps" holds -DQUICK -DREVOKES=1 -DEPOCHS=5
check "... and one is stopped anywhere, for ever" holds -DQUICK -DREVOKES=0 -DSTOPS=1 -DEPOCHS=5
check "... and one is killed anywhere" holds -DQUICK -DREVOKES=0 -DKILLS=1 -DEPOCHS=4
check "... and the set is removed" holds -DQUICK -DREVOKES=0 -DREMOVE -DEPOCHS=4
check "... and the set is moved" holds -DQUICK -DREVOKES=0 -DMOVE -DEPOCHS=4
check "planted: the commit is not fenced" fails -DREVOKES=1 -DPLANT_FENCE
check "planted: who is awake is served, too" fails -DREVOKES=0 -DSIGNALS=1 -DPLANT_WAKE
check "planted: a move copies before it has the lock" fails -DREVOKES=0 -DMOVE -DPLANT_MOVE -DEPOCHS=5
check "planted: removal not looked for before the sleep" fails -DREVOKES=0 -DREMOVE -DPLANT_SLOT -DEPOCHS=5
check "planted: who sleeps in litter is not told" fails -DREVOKES=0 -DREMOVE -DDIES=1 -DPLANT_LITTER -DEPOCHS=4
check "... nor who has its result and was not woken" fails -DREVOKES=0 -DREMOVE -DDIES=1 -DPLANT_DONE -DEPOCHS=4
check "... nor who sleeps in what was moved" fails -DREVOKES=0 -DMOVE -DDIES=1 -DPLANT_LITTER -DEPOCHS=4
check "planted: a short form commits at any free lock" fails -DQUICK -DREVOKES=0 -DPLANT_QUICK_FENCE -DEPOCHS=5
check "planted: a short form reads words before the lock" fails -DQUICK -DNU=2 -DREVOKES=0 -DPLANT_QUICK_LATE -DEPOCHS=5
