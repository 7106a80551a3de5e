#!/usr/bin/perl
# Perl's IPC::SysV family and the calls built into Perl, between real processes. Prints "done".
use strict;
use warnings;
use Errno qw(EEXIST EIDRM EINTR EINVAL ENOENT ENOMSG EAGAIN);
use IPC::SysV qw(IPC_CREAT IPC_EXCL IPC_NOWAIT IPC_PRIVATE IPC_RMID SEM_UNDO S_IRUSR S_IWUSR ftok);
use IPC::Msg;
use IPC::Semaphore;
use IPC::SharedMem;

# Whatever hangs ends here, and the test says so. Children inherit nothing of an alarm.
$SIG{ALRM} = sub { die "still waiting after 60 s\n" };
alarm 60;

my $mode = S_IRUSR | S_IWUSR;

sub is {
    my ($got, $want, $what) = @_;
    die "$what: got '" . ($got // 'undef') . "', want '$want'\n" unless defined $got && $got eq $want;
}

sub fails {
    my ($result, $errno, $what) = @_;
    die "$what succeeded: $result\n" if defined $result && $result;
    is($! + 0, $errno, "errno of $what");
}

# A child that runs $_[0] and exits with what it returns, without Perl's own clean-up.
sub child {
    my ($code) = @_;
    my $pid = fork() // die "fork: $!\n";
    return $pid if $pid;
    alarm 60;
    require POSIX;
    POSIX::_exit(eval { $code->() } // do { warn $@; 99 });
}

sub ends {
    my ($pid, $want, $what) = @_;
    waitpid($pid, 0) == $pid or die "waitpid for $what: $!\n";
    is($?, $want, "status of $what");
}

sub until_true {
    my ($what, $check) = @_;
    for (1 .. 500) { return if $check->(); select undef, undef, undef, 0.01 }
    die "never true: $what\n";
}

# Nothing of a queue counts its receivers. So: the child slept whenever it was looked at.
sub until_sleeps {
    my ($pid) = @_;
    my $seen = 0;
    until_true("process $pid sleeps", sub {
        open my $stat, '<', "/proc/$pid/stat" or die "/proc/$pid/stat: $!\n";
        $seen = <$stat> =~ /\) S / ? $seen + 1 : 0;
        return $seen == 20;
    });
}

my $key = ftok($0, 7) // die "ftok $0: $!\n";

messages: {
    fails(scalar(IPC::Msg->new($key, $mode)), ENOENT, 'opening a queue that is not there');
    my $queue = IPC::Msg->new($key, IPC_CREAT | IPC_EXCL | $mode) or die "create a queue: $!\n";
    fails(scalar(IPC::Msg->new($key, IPC_CREAT | IPC_EXCL | $mode)), EEXIST, 'creating a queue twice');
    my $pid = child(sub {
        my $same = IPC::Msg->new($key, $mode) or die "child: open the queue: $!\n";
        my $text;
        $same->rcv($text, 64, 5) == 5 or die "child: received '$text'\n";
        $same->snd(9, "re: $text") or die "child: send: $!\n";
        return 0;
    });
    $queue->snd(3, 'not yours') && $queue->snd(5, 'yours') or die "send: $!\n";
    my $text = '';
    is($queue->rcv($text, 64, 9), 9, 'type of the answer');
    is($text, 're: yours', 'the answer');
    ends($pid, 0, 'the child that answers');
    is($queue->stat->qnum, 1, 'messages left');
    is($queue->stat->lrpid, $$, 'last receiver');
    is($queue->stat->lspid, $pid, 'last sender, dead by now');
    fails(scalar($queue->rcv($text, 64, 4, IPC_NOWAIT)), ENOMSG, 'receiving an absent type');
    is($queue->rcv($text, 64, -3), 3, 'type by upper bound');

    # Filled up, a sender sleeps until there is room.
    my $sent = 0;
    $sent++ while $queue->snd(1, 'x' x 1000, IPC_NOWAIT);
    is($! + 0, EAGAIN, 'errno of a send to a full queue');
    is($sent, int($queue->stat->qbytes / 1000), 'messages that fit');
    $pid = child(sub { $queue->snd(2, 'y' x 1000) or die "child: send: $!\n"; 0 });
    $queue->rcv($text, 1000, 1) for 1 .. 2;
    is($queue->rcv($text, 1000, 2), 2, "the sleeper's message");
    ends($pid, 0, 'the child that waited for room');

    # Removal ends a sleep.
    $pid = child(sub { defined $queue->rcv($text, 64, 77) ? 1 : $! + 0 });
    until_sleeps($pid);
    $queue->remove or die "remove the queue: $!\n";
    ends($pid, EIDRM << 8, 'the child whose queue was removed');
    fails(scalar($queue->snd(1, 'x')), EINVAL, 'sending to a removed queue');
}

semaphores: {
    my $set = IPC::Semaphore->new($key, 3, IPC_CREAT | IPC_EXCL | $mode) or die "create a set: $!\n";
    $set->setall(0, 5, 7) or die "setall: $!\n";
    is(join(',', $set->getall), '0,5,7', 'getall');
    $set->op(1, -2, 0, 2, 1, 0) or die "op: $!\n";
    is(join(',', $set->getall), '0,3,8', 'after one op on two semaphores');
    is($set->getpid(1), $$, 'sempid');

    my $pid = child(sub { $set->op(0, -1, 0) or die "child: op: $!\n"; 0 });
    until_true('GETNCNT is 1', sub { $set->getncnt(0) == 1 });
    $set->op(0, 1, 0) or die "op: $!\n";
    ends($pid, 0, 'the child that waited for the semaphore');
    is($set->getval(0), 0, 'value that the sleeper took');

    $pid = child(sub { $set->op(1, 0, 0) or die "child: op: $!\n"; 0 });
    until_true('GETZCNT is 1', sub { $set->getzcnt(1) == 1 });
    $set->setval(1, 0) or die "setval: $!\n";
    ends($pid, 0, 'the child that waited for zero');

    # Undone before waitpid returns, at exit and at SIGKILL (rows 139, 140).
    $set->setval(2, 4);
    ends(child(sub { $set->op(2, -3, SEM_UNDO) ? 0 : 1 }), 0, 'the child that leaves its undo');
    is($set->getval(2), 4, 'value after undo at exit');
    for (1 .. 20) {
        $pid = child(sub { $set->op(2, -4, SEM_UNDO); sleep 60; 0 });
        until_true('the child holds it', sub { $set->getval(2) == 0 });
        kill KILL => $pid;
        ends($pid, 9, 'the child that was killed');
        is($set->getval(2), 4, 'value after undo at SIGKILL');
    }

    # A handler ends a sleep (row 123).
    $pid = child(sub {
        $SIG{USR1} = sub { };
        $set->op(0, -1, 0) ? 0 : $! + 0;
    });
    until_true('the child sleeps', sub { $set->getncnt(0) == 1 });
    kill USR1 => $pid;
    ends($pid, EINTR << 8, 'the child that was interrupted');
    is($set->getncnt(0), 0, 'sleepers after the signal');

    fails(scalar($set->op(0, -1, IPC_NOWAIT)), EAGAIN, 'op that would block');
    is($set->stat->nsems, 3, 'nsems');
    $set->remove or die "remove the set: $!\n";
    fails(defined $set->getval(0) ? 'a value' : undef, EINVAL, 'getval of a removed set');
}

memory: {
    my $segment = IPC::SharedMem->new($key, 5000, IPC_CREAT | IPC_EXCL | $mode) or die "create a segment: $!\n";
    is($segment->stat->segsz, 5000, 'size as asked for');
    $segment->attach or die "attach: $!\n";
    is($segment->read(0, 8), "\0" x 8, 'new memory');
    is($segment->stat->nattch, 1, 'nattch');
    my $pid = child(sub {
        # The attach is inherited (row 77), and what is written in one is seen in the other.
        is($segment->stat->nattch, 2, "nattch in the child");
        $segment->write('from the child', 4000, 14);
        $segment->detach or die "child: detach: $!\n";
        is($segment->stat->nattch, 1, "nattch after the child's detach");
        0;
    });
    ends($pid, 0, 'the child that writes');
    is($segment->read(4000, 14), 'from the child', 'memory');
    is($segment->stat->nattch, 1, 'nattch after the child');
    is($segment->stat->cpid, $$, 'creator');

    # exec drops attaches; a program that comes by exec knows the id without a shmget.
    my $id = $segment->id;
    my $answer = qx($^X -e 'shmread($id, my \$buffer, 4000, 14) or die \$!; print \$buffer');
    is($answer, 'from the child', 'what another program reads by id');
    is($segment->stat->nattch, 1, 'nattch after the other program');

    # Perl's own calls.
    my $other = shmget(IPC_PRIVATE, 100, $mode) // die "shmget: $!\n";
    shmwrite($other, 'built in', 10, 8) or die "shmwrite: $!\n";
    shmread($other, my $buffer, 10, 8) or die "shmread: $!\n";
    is($buffer, 'built in', 'shmread');
    shmctl($other, IPC_RMID, 0) or die "shmctl: $!\n";
    fails(scalar(shmread($other, $buffer, 0, 1)), EINVAL, 'reading a removed segment');

    # Removed while attached: the key is free at once, the memory stays (rows 86, 87).
    $segment->remove or die "remove: $!\n";
    fails(scalar(IPC::SharedMem->new($key, 0, $mode)), ENOENT, 'opening a removed key');
    is($segment->read(4000, 14), 'from the child', 'memory after removal');
    $segment->detach or die "detach: $!\n";
}

print "done\n";
