# The worker process of the example app: does nothing, regularly, and ends in good order.
trap 'echo "finishing"; exit 0' TERM
n=0
while :; do
    n=$((n + 1))
    echo "job $n done"
    sleep 5 &
    wait $!
done
