#!/usr/bin/perl
# Takes PostgreSQL's place in the demonstration where that is not installed: a server with one
# segment, one semaphore set and one queue, all under one key, and its client.
#
#   server.pl NAME        serve until SIGINT or SIGTERM
#   server.pl NAME ask    ask the server, and print its answer
use strict;
use warnings;
use IPC::Msg;
use IPC::Semaphore;
use IPC::SharedMem;
use IPC::SysV qw(IPC_CREAT IPC_EXCL SEM_UNDO);

my ($name, $ask) = @ARGV;
my $key = 0x1bc5;
my ($question, $answer) = (1, 2);
my $new = $ask ? 0 : IPC_CREAT | IPC_EXCL;

my $queue = IPC::Msg->new($key, $new | 0600) // die "queue $key: $!\n";
my $set = IPC::Semaphore->new($key, 1, $new | 0600) // die "semaphore set $key: $!\n";
my $segment = IPC::SharedMem->new($key, 4096, $new | 0600) // die "segment $key: $!\n";
$segment->attach or die "attach: $!\n";

if ($ask) {
    alarm 20;
    $queue->snd($question, $$) or die "send: $!\n";
    $queue->rcv(my $text, 200, $answer) or die "receive: $!\n";
    print "$text\n";
    exit;
}

$set->setval(0, 1);
$segment->write($name, 0, length $name);
my $asked = 0;
$SIG{INT} = $SIG{TERM} = sub {
    $_->remove for $queue, $set, $segment;
    exit 0;
};
$| = 1;
printf "ready: took key 0x%08x for segment %d, set %d, queue %d\n", $key, $segment->id, $set->id, $queue->id;
while ($queue->rcv(my $who, 200, $question)) {
    $set->op(0, -1, SEM_UNDO);
    $asked++;
    my $me = $segment->read(0, length $name);
    $set->op(0, 1, SEM_UNDO);
    $queue->snd($answer, "says that it is $me, asked $asked time(s)");
}
